"""Sharded streams for tests."""

import polars as pl

SCHEMA = {"user": pl.String(), "n": pl.Int64()}
#: The tags of the first shards, as docs/guide/sharded-streams.md has them.
TAGS = ["0-dnh", "1-cep", "2-blj", "3-rko", "4-feu", "5-anm", "6-hno", "7-abb"]


def frame(rows: int = 500) -> pl.DataFrame:
    """Numbered rows of some users."""
    users = [f"user_{row * 7 % 41}" for row in range(rows)]
    return pl.DataFrame({"user": users, "n": range(rows)})


def without_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """Give rows as `frame` has them."""
    return rows.select("user", "n").sort("n")
