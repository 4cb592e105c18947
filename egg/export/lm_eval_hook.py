"""Makes the model ``egg`` known to an lm_eval that reads no entry points; see egg/export/packaging.py."""

import contextlib

# Whatever another version of lm_eval is like, its command line must not be disturbed.
with contextlib.suppress(Exception):
    import lm_eval.models  # noqa: F401, first: a registry that is not empty is not filled
    from lm_eval.api.registry import model_registry

    if "egg" not in model_registry:
        model_registry.register("egg", target="egg.export.lm_eval:EggLM")
