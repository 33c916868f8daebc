"""The lab: models, tasks and training that stand in where nothing can be downloaded; cached and seeded."""

from ..extras import need

need("lab", __name__)
