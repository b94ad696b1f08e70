"""The only reader and writer of vectors.

Rows lie in one partition per collection, and every query names the permitted collections as
literals: the planner prunes by them, and row-level security stays the second lock. A filter
behind one shared index would lose rows and tell by its timing what is hidden.

encoders.py    which encoders there are, and which of them answers queries
vectors.py     vectors as rows
tagging.py     tags that follow from a vector, written with it
asked.py       what is asked of the rows
in_time.py     by when
route.py       how the permitted rows are searched
scan.py        the statements of one way through them
neighbours.py  the nearest rows
"""

from retrieval.index.asked import EVERYTHING, Filter, Metric
from retrieval.index.encoders import (
    coverage,
    coverage_of_parts,
    encoder_named,
    hold_live,
    live_encoder,
    live_report_encoder,
    register_encoder,
    reports_to_read,
    require_in_use,
    require_kept,
    retire,
    switch,
    without_vector,
)
from retrieval.index.in_time import deadline
from retrieval.index.neighbours import background, nearest
from retrieval.index.route import FULL_EF_SEARCH, Path, Route, ef_search_of
from retrieval.index.scan import Neighbour
from retrieval.index.tagging import set_tag_thresholds
from retrieval.index.vectors import (
    forget_report,
    sample_vectors,
    store,
    store_all,
    store_report,
    vectors_among,
    vectors_of,
)

__all__ = [
    "EVERYTHING",
    "FULL_EF_SEARCH",
    "Filter",
    "Metric",
    "Neighbour",
    "Path",
    "Route",
    "background",
    "coverage",
    "coverage_of_parts",
    "deadline",
    "ef_search_of",
    "encoder_named",
    "forget_report",
    "hold_live",
    "live_encoder",
    "live_report_encoder",
    "nearest",
    "register_encoder",
    "reports_to_read",
    "require_in_use",
    "require_kept",
    "retire",
    "sample_vectors",
    "set_tag_thresholds",
    "store",
    "store_all",
    "store_report",
    "switch",
    "vectors_among",
    "vectors_of",
    "without_vector",
]
