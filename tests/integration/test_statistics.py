"""Statistics: a restored database is planned for from its first query on."""

from __future__ import annotations

import pytest

from pgclone_admin.core.names import TableName

from .operations import restore, take

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

# Each large enough to have its indexes built while others are loaded.
LARGE = """
CREATE TABLE a_large AS SELECT i, i % 7 AS day, i % 7 * 2 AS twice, repeat(md5(i::text), 4) AS text
  FROM generate_series(1, 40000) AS i;
CREATE INDEX ON a_large (i);
CREATE TABLE b_linked AS TABLE a_large;
CREATE INDEX ON b_linked (day);
CREATE STATISTICS b_days (dependencies) ON day, twice FROM b_linked;
CREATE TABLE c_small AS SELECT 1 AS one;
CREATE TABLE "D quoted" AS TABLE a_large;
CREATE INDEX ON "D quoted" (day);
"""


def test_every_table_has_statistics_after_a_restore_also_those_of_several_columns(
    make_site, storage_root, any_pg
):
    site = make_site(any_pg, empty=True)
    site.run(LARGE)
    key = take(site, storage_root)
    result = restore(site, key, storage_root)
    assert set(result.report.analyzed) == {
        TableName("public", "a_large"),
        TableName("public", "D quoted"),
    }
    assert site.run(
        "SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public' ORDER BY 1"
    ) == [("D quoted",), ("a_large",), ("b_linked",), ("c_small",)]
    assert site.run(
        "SELECT count(*) FROM pg_stats_ext WHERE statistics_name = 'b_days'"
        " AND dependencies IS NOT NULL"
    ) == [(1,)]
