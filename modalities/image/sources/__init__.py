"""Where pictures come from: folders, zip files, WebDataset shards, Parquet files, folders of `datasets`, prepared ones."""

from modalities.image.sources.base import Entry, Source
from modalities.image.sources.choice import open_source

__all__ = ["Entry", "Source", "open_source"]
