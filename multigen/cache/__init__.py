"""The representation cache: what a frozen encoder says about every example, computed once.

    storage = Storage(dtype="float16", whiten=64)
    prepare(Job(train, modality, encoder, "tokens"), storage, others=[valid])           # once; resumable; parallel
    teacher = load_teacher(encoder, "tokens", storage, train)                           # the encoder with its whitening
    train = Cached(train, {"tokens": open_cache(train, teacher, "tokens", "float16")})  # targets: cached
    modality.encoders = {"tokens": teacher}                                             # targets: online

Both of the last two lines give the objective the same targets, to the rounding of the storage type. Several targets of one
data set are prepared in one pass over it by `prepare_all`.

A cache is a folder named after the data, the target and a digest of its `Spec`. It holds `manifest.json` and one
memory-mapped safetensors file per shard of examples, each with a small JSON neighbour that holds its checksum and says that
it is complete. A spec that differs in any key (data, encoder, whitening, type, format) is another folder, so that a stale
cache cannot be read by accident; asked for, it is refused with the keys that differ. A target that is whitened to fewer
components than a cache has is cut out of that (`multigen.cache.cut`).
"""

from multigen.cache.codec import CODECS
from multigen.cache.encode import Job
from multigen.cache.pairing import InMemory, RandomTargets, Shuffled, paired
from multigen.cache.read import Cached, Reader, open_cache
from multigen.cache.spec import Spec, Storage
from multigen.cache.whitening import Whitened, Whitening, fit_teachers, load_teacher
from multigen.cache.write import build, build_all, prepare, prepare_all

__all__ = [
    "CODECS",
    "Cached",
    "InMemory",
    "Job",
    "RandomTargets",
    "Reader",
    "Shuffled",
    "Spec",
    "Storage",
    "Whitened",
    "Whitening",
    "build",
    "build_all",
    "fit_teachers",
    "load_teacher",
    "open_cache",
    "paired",
    "prepare",
    "prepare_all",
]
