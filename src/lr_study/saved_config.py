"""The files that Hydra saves beside a job where `hydra.output_subdir` is set, without passwords."""

import os
import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lr_study.masking import mask_tree


def mask_saved_config(cfg: DictConfig) -> None:
    """Replace passwords in the files that Hydra has saved for this job, whose configuration is `cfg`.

    Call it first: Hydra writes them just before it calls the app, and has no option for what it writes. The files are
    not read and changed but written afresh, since trials that share a folder write the same ones at the same time.
    """
    hydra = HydraConfig.get()
    if hydra.output_subdir is None:
        return
    folder = Path(hydra.runtime.output_dir) / hydra.output_subdir
    saved = {"config": cfg, "hydra": HydraConfig.instance().cfg, "overrides": hydra.overrides.task}
    for name, config in saved.items():
        tree = OmegaConf.to_container(config)
        if (masked := mask_tree(tree)) != tree:
            beside = folder / f"{name}.yaml.{uuid.uuid4().hex}"
            beside.write_text(OmegaConf.to_yaml(OmegaConf.create(masked)), encoding="utf-8")
            os.replace(beside, folder / f"{name}.yaml")
