"""Configuration: schema, resolvers, composition, and the checks of a request."""

from pipeline.config.compose import as_dict, as_yaml, conf_dir, flatten, from_dict, register, resolve, walk
from pipeline.config.schema import Config

__all__ = ["Config", "as_dict", "as_yaml", "conf_dir", "flatten", "from_dict", "register", "resolve", "walk"]
