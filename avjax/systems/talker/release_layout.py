"""Where the files of Talker-T2AV's release lie: paths and names, and nothing else.

Its owners hand it out in four places (their README.md says which goes where): the network with its
tokenizer and the audio codec on Hugging Face (HKUSTAudio/Talker-T2AV), the motion's statistics in
the code's repository, LIA-X's weights and WavLM's each by its own authors. A whole release, as an
export lays it out, is a folder with these paths below it.
"""

NETWORK = "talker-t2av"  # a folder
WEIGHTS = f"{NETWORK}/model.safetensors"
CONFIG = f"{NETWORK}/config.json"  # of the language model, as transformers writes it
TOKENIZER = f"{NETWORK}/tokenizer.json"
TOKENIZER_CONFIG = f"{NETWORK}/tokenizer_config.json"
CHAT_TEMPLATE = f"{NETWORK}/chat_template.jinja"
AUDIO_CODEC = "whisperx-vae/model.ckpt"  # with Whisper's encoder in it
STATISTICS = "lia_x"  # a folder
MOTION_MEAN, MOTION_STD = f"{STATISTICS}/motion_mean.npy", f"{STATISTICS}/motion_std.npy"
RENDERER = "lia-x.pt"
VOICE = "wavlm_large_finetune.pth"

# What the code adds to the tokenizer for the places of patches, which it never embeds.
PLACEHOLDERS = ("<SPEECH_FRAME>", "<MOTION_FRAME>")

# Where the owners' README.md has them put, below the repository or the folder of downloads; the
# first that is there is taken. A part is also looked for by its name alone, in the folder and
# beside it.
DOWNLOADS = ("", "ckpts/hf_weights/", "hf_weights/", "ckpts/")
RENDERERS = (RENDERER, f"deps/LIA-X/{RENDERER}", f"lia_x/{RENDERER}", f"LIA-X/{RENDERER}")
VOICES = (VOICE, f"ckpts/{VOICE}", f"deps/{VOICE}", f"speaker_verification/{VOICE}")
