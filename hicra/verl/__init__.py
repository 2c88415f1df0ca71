"""HICRA in verl's own trainer: `trainer.v1.trainer_mode=hicra` (docs/verl.md).

verl finds `hicra.verl.trainer` by its entry point. `settings` and `credit` need no verl.
"""
