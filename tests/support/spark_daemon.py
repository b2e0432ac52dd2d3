"""Spark's process that forks its Python workers, with what they import imported before.

Each of Spark's kinds of workers has such a process, and each worker would take a second otherwise.
"""

from __future__ import annotations

import pandas as pd
import polars as pl
import pyarrow as pa
from pyspark.daemon import manager

import redfloe.spark

IMPORTED = pa, pd, pl, redfloe.spark

if __name__ == "__main__":
    manager()
