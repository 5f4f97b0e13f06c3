# ruff: noqa: E501
"""A program as XLA:TPU prints it, shortened by hand: what the planner must find in it is in
test_planner.py."""

TPU = """\
HloModule jit_step, is_scheduled=true

%add.clone (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %add = bf16[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.1.clone.1 (input.4: bf16[4096,1024]) -> bf16[4096,256] {
  %input.4 = bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.11 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-reduce(%input.4), channel_id=11, replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}, use_global_device_ids=true, to_apply=%add.clone
  %offset = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice = bf16[4096,256]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.11, %offset, %offset), dynamic_slice_sizes={4096,256}
}

%fused_start (param_0.0: bf16[4096,256]) -> (bf16[4096,1024], u32[]) {
  %param_0.0 = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.34 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.0), channel_id=6, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, dimensions={1}, use_global_device_ids=true
  ROOT %started = (bf16[4096,1024]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) custom-call(%all-gather.34), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (param_0.1: bf16[4096,256]) -> bf16[4096,1024] {
  %param_0.1 = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.35 = bf16[4096,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), channel_id=6, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, dimensions={1}, use_global_device_ids=true
}

%async_collective_fusion.2 (param_0.2: bf16[4096,256]) -> bf16[4096,1024] {
  %param_0.2 = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.36 = bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.2), channel_id=6, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, dimensions={1}, use_global_device_ids=true
}

%fused_slice (param_0.3: f32[6,4096,256], param_1.3: s32[]) -> bf16[4096,256] {
  %param_0.3 = f32[6,4096,256]{2,1,0:T(8,128)} parameter(0)
  %param_1.3 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,4096,256]{2,1,0:T(8,128)} dynamic-slice(%param_0.3, %param_1.3, %zero, %zero), dynamic_slice_sizes={1,4096,256}
  %flat = f32[4096,256]{1,0:T(8,128)} bitcast(%slice)
  ROOT %half = bf16[4096,256]{1,0:T(8,128)(2,1)} convert(%flat)
}

%body (p: (s32[], f32[6,4096,256])) -> (s32[], f32[6,4096,256]) {
  %p = (s32[]{:T(128)}, f32[6,4096,256]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %w = f32[6,4096,256]{2,1,0:T(8,128)} get-tuple-element(%p), index=1
  %layer = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused_slice, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %async-collective-start = (bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) fusion(%layer), kind=kCustom, calls=%fused_start
  %gather.1 = bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%layer), kind=kCustom, calls=%async_collective_fusion.1, backend_config={"window_config":{"estimated_cycles":"3000"}}
  %gather.2 = bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%layer), kind=kCustom, calls=%async_collective_fusion.2, backend_config={"window_config":{"estimated_cycles":"2000"}}
  %scatter = bf16[4096,256]{1,0:T(8,128)(2,1)S(1)} fusion(%gather.2), kind=kCustom, calls=%all-reduce-scatter.1.clone.1
  %piece = bf16[256,8,128]{2,1,0:T(8,128)(2,1)S(1)} bitcast(%scatter)
  %token = token[] after-all()
  %send.7 = (bf16[256,8,128]{2,1,0:T(8,128)(2,1)S(1)}, u32[], token[]) send(%piece, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.7 = token[] send-done(%send.7), channel_id=2, is_host_transfer=true
  ROOT %next = (s32[]{:T(128)}, f32[6,4096,256]{2,1,0:T(8,128)}) tuple(%i, %w)
}

%condition (q: (s32[], f32[6,4096,256])) -> pred[] {
  %six = s32[]{:T(128)} constant(6)
  %q = (s32[]{:T(128)}, f32[6,4096,256]{2,1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %six), direction=LT
}

ENTRY %main (weights: f32[6,4096,256]) -> f32[6,4096,256] {
  %weights = f32[6,4096,256]{2,1,0:T(8,128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %start = s32[]{:T(128)S(1)} copy(%one), backend_config={"window_config":{"estimated_cycles":"77"}}
  %tuple = (s32[]{:T(128)}, f32[6,4096,256]{2,1,0:T(8,128)}) tuple(%start, %weights)
  %while = (s32[]{:T(128)}, f32[6,4096,256]{2,1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %out = f32[6,4096,256]{2,1,0:T(8,128)} get-tuple-element(%while), index=1
}
"""

# as XLA:GPU prints one, for two machines of four cards: memory space 1 is not VMEM there
GPU = """\
HloModule jit_step, is_scheduled=true

%fused_tanh (p.1: bf16[1024,2048]) -> bf16[1024,2048] {
  %p.1 = bf16[1024,2048]{1,0} parameter(0)
  ROOT %tanh = bf16[1024,2048]{1,0} tanh(%p.1)
}

%scatter_computation (p.2: bf16[1024,2048]) -> bf16[256,2048] {
  %p.2 = bf16[1024,2048]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = bf16[256,2048]{1,0} reduce-scatter(%p.2), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
}

%body (p: (s32[], bf16[256,2048])) -> (s32[], bf16[256,2048]) {
  %p = (s32[], bf16[256,2048]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %w = bf16[256,2048]{1,0} get-tuple-element(%p), index=1
  %all-gather-start = (bf16[256,2048]{1,0}, bf16[1024,2048]{1,0:S(1)}) all-gather-start(%w), channel_id=1, replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=1,'axis_3'=2], device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}, use_global_device_ids=true, backend_config={"collective_backend_config":{"is_sync":true}}
  %all-gather-done = bf16[1024,2048]{1,0:S(1)} all-gather-done(%all-gather-start)
  %custom-call.2 = (bf16[1024,1024]{1,0}, s8[33554432]{0}) custom-call(%all-gather-done, %all-gather-done), custom_call_target="__cublas$lt$matmul"
  %fusion = bf16[1024,2048]{1,0} fusion(%all-gather-done), kind=kLoop, calls=%fused_tanh
  %scatter-start = ((bf16[1024,2048]{1,0}), bf16[256,2048]{1,0}) async-start(%fusion), calls=%scatter_computation, backend_config={"collective_backend_config":{"is_sync":false}}
  %scatter-done = bf16[256,2048]{1,0} async-done(%scatter-start)
  ROOT %next = (s32[], bf16[256,2048]{1,0}) tuple(%i, %scatter-done)
}

%condition (q: (s32[], bf16[256,2048])) -> pred[] {
  %q = (s32[], bf16[256,2048]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%j, %five), direction=LT
}

ENTRY %main (weights: bf16[256,2048], q: bf16[1,1024,8,128]) -> bf16[256,2048] {
  %weights = bf16[256,2048]{1,0} parameter(0)
  %q = bf16[1,1024,8,128]{3,2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %attention = (bf16[1,8,1024,128]{3,1,2,0}, f32[1,8,1024]{2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
  %tuple = (s32[], bf16[256,2048]{1,0}) tuple(%zero, %weights)
  %while = (s32[], bf16[256,2048]{1,0}) while(%tuple), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %last = bf16[256,2048]{1,0} get-tuple-element(%while), index=1
  %all-reduce-start = bf16[256,2048]{1,0} all-reduce-start(%last), channel_id=2, replica_groups=[1,8]<=[8], use_global_device_ids=true, to_apply=%add, backend_config={"collective_backend_config":{"is_sync":false}}
  ROOT %all-reduce-done = bf16[256,2048]{1,0} all-reduce-done(%all-reduce-start)
}
"""
