"""How YAML is read: by libyaml's parser where there is one, which takes far less CPU."""

import yaml

LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""For ``yaml.load`` and ``yaml.load_all``; reads no more than ``yaml.SafeLoader`` does."""
