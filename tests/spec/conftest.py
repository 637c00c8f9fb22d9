"""The specification is copied here word for word; this says how much of it cyad answers so far.

Whole files are named once the work they specify is done; `PENDING` names single tests of those files that wait for it.
"""
from pathlib import Path

SPEC_DONE = ("test_types.py", "test_autodiff.py", "test_convenience.py", "test_rules.py")
PENDING = ()

collect_ignore = sorted(p.name for p in Path(__file__).parent.glob("test_*.py") if p.name not in SPEC_DONE)


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    waits = [i for i in items if i.path.parent == here and i.originalname in PENDING]
    if waits:
        config.hook.pytest_deselected(items=waits)
        items[:] = [i for i in items if i not in waits]
