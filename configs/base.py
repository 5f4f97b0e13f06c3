"""Every field an experiment may set, with its default. Experiments start from `get_config()` and
override; the config is then locked, so a misspelt key on the command line is an error that names
the nearest valid key."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.name = "base"
    c.seed = 0
    # Stages run before training, in order, each skipped when its output is already whole. See
    # launch/jobs/stages.py.
    c.stages = ()

    # The trainable thing: `name` picks avjax/systems/<name>, the rest is its own (see that folder's
    # config.py).
    c.system = ConfigDict()

    c.data = d = ConfigDict()
    d.dir = ""  # a feature dataset's folder; "{workdir}" is replaced
    d.train_split = "train"
    # examples a step, or rows of several (System.rows), over all hosts and devices
    d.batch_size = 16
    # frames an example; not read by systems that train on whole examples (System.rows)
    d.segment = 345
    d.threads = 2  # reader threads (order does not depend on it)

    c.optimizer = o = ConfigDict()
    o.name = "adamw"
    o.learning_rate = 1e-4
    o.schedule = "constant"  # constant | cosine | linear | rsqrt
    o.warmup_steps = 0
    o.final_fraction = 0.0  # learning rate at the end, as a fraction of the peak (cosine, linear)
    o.b1, o.b2, o.eps = 0.9, 0.98, 1e-9
    o.weight_decay = 0.0
    o.no_decay = (r".*/bias$", r".*/scale$")  # parameters without weight decay, by path
    o.frozen = ()  # parameters that never change, by path
    o.clip_norm = 0.0  # global gradient norm; 0 = off
    o.accumulate = 1  # micro-batches a step
    o.ema_decay = 0.0  # 0 = off; evaluation uses the average when on

    c.train = t = ConfigDict()
    t.steps = 1_000_000
    # a workdir or checkpoint whose parameters a new job begins with; "{workdir}" is replaced
    t.init_from = ""
    # ((subtree of the parameters, workdir that fills it, subtree of that one's or ""), ...)
    t.init_parts = ()
    t.init_include = (r".*",)  # which of them, by path; the others stay fresh
    # True allows parameters that were trained on features made otherwise
    t.init_other_features = False
    t.log_every = 50
    t.checkpoint_every = 5000
    # a folder of every host's own disk (or /dev/shm) for frequent saves; "" = none, see
    # avjax.checkpoint.tiers
    t.local_dir = ""
    t.local_every = 500
    t.keep_last = 2
    t.keep_best = 1  # by `best_metric`
    t.best_metric = "loss"  # a metric of the evaluation in the loop
    t.best_mode = "min"
    t.evaluate_every = 5000
    t.loss_examples = 64  # held-out examples for the loss in the loop
    t.nan_policy = "stop"  # stop | skip
    t.max_skips = 10
    t.profile_at = -1  # first step of an XProf trace; -1 = none
    t.profile_steps = 5
    t.wandb = ""  # a Weights & Biases project that gets the scalars too; "" = none
    # without a completed step, after which stacks are printed and the job exits with 75; 0 = off
    t.watchdog_seconds = 0.0
    t.save_timeout = 1200.0  # seconds for a checkpoint to be whole on disk
    t.barrier_timeout = 600.0  # seconds that hosts wait for each other
    t.heartbeat_timeout = 100.0  # seconds of silence after which a host counts as dead
    t.peak_flops = 0.0  # of one device, for MFU; 0 = the data sheet's where known, else measured

    # within a slice; -1 = whatever devices are left
    c.mesh = ConfigDict(dict(data=-1, fsdp=1, seq=1, tensor=1))
    c.dcn = ConfigDict(dict(data=1, fsdp=1))  # across slices; -1 = their number
    # what the experiment is meant for, e.g. "v5e:16x16"; see launch.plan
    c.plan = ConfigDict(dict(topology="", slices=1))

    c.evaluate = e = ConfigDict()
    e.benchmark = ""  # a file of eval/benchmarks; "" = loss only
    e.splits = ("valid",)
    e.tasks = ()  # which of the system's tasks are scored; () = all
    e.max_examples = 0  # 0 = all
    e.in_loop_examples = 8  # examples of the benchmark scored during training
    e.batch_size = 4
    e.seed = 0

    # What `launch.train` generates once training is done: `sample` from text or audio, and
    # `sample_<task>` of each task from an example of the dataset ("split/id" or "split/number"),
    # see launch.generate.
    c.sample = ConfigDict(dict(text="", audio="", example="", tasks=()))
    return c
