"""Where pictures come from: folders, zip files, WebDataset shards, Parquet files, Hugging Face data sets, prepared pictures."""

from modalities.image.sources.base import Entry, Source
from modalities.image.sources.choice import open_source

__all__ = ["Entry", "Source", "open_source"]
