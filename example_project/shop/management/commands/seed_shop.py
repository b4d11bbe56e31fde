import hashlib
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.management.color import no_style
from django.db import connection, models, transaction

from example_project.shop.models import (
    Category,
    Customer,
    Document,
    Order,
    OrderLine,
    Product,
    SearchLog,
)

# The same numbers give the same shop: "random" choices come from multiplying the row's number by
# a prime, and all dates count back from one fixed day. One INSERT per table keeps it fast.
STATEMENTS = (
    """
    INSERT INTO shop_category (id, name, parent_id)
    SELECT n, name, parent
    FROM (VALUES (1, 'Bicycles', NULL), (2, 'Parts', NULL), (3, 'Clothing', NULL),
                 (4, 'City bicycles', 1), (5, 'Touring bicycles', 1), (6, 'Cargo bicycles', 1),
                 (7, 'Brakes', 2), (8, 'Lights', 2), (9, 'Saddles', 2), (10, 'Tyres', 2),
                 (11, 'Gloves', 3), (12, 'Rain jackets', 3)) AS category (n, name, parent)
    """,
    """
    INSERT INTO shop_product (id, sku, name, category_id, price, stock, attributes)
    SELECT n, 'BIKE-' || lpad(n::text, 6, '0'),
           (ARRAY['Amsterdam', 'Alpine', 'Breeze', 'Comet', 'Harbour', 'Nordic', 'Trail'])
               [1 + n %% 7] || ' ' || n,
           4 + n * 7 %% 9, 5 + (n * 7919 %% 90000) / 100.0, n * 31 %% 200,
           jsonb_build_object(
               'colour', (ARRAY['black', 'blue', 'green', 'red', 'silver'])[1 + n * 13 %% 5],
               'weight_g', 100 + n * 7919 %% 20000,
               'tags', jsonb_build_array('season-' || n %% 4, 'supplier-' || n %% 37))
    FROM generate_series(1, %(products)s) AS n
    """,
    """
    INSERT INTO shop_customer (id, first_name, last_name, email, phone, joined_at)
    SELECT n, first_name, last_name,
           lower(first_name || '.' || last_name) || n || '@example.com',
           CASE n %% 3 WHEN 0 THEN ''
                      ELSE '+31 6 ' || lpad((n * 7919 %% 99999999)::text, 8, '0') END,
           timestamptz '2026-01-01 00:00Z' - n * interval '53 minutes'
    FROM generate_series(1, %(customers)s) AS n,
         LATERAL (SELECT (ARRAY['Ada', 'Chen', 'Elif', 'Femke', 'Ivan', 'José', 'Noor', 'Olu',
                                'Priya', 'Søren', 'Yuki'])[1 + n %% 11] AS first_name,
                         (ARRAY['Bakker', 'Demir', 'García', 'Haddad', 'Ito', 'Jansen', 'Kaya',
                                'Lindqvist', 'Mensah', 'Novák', 'Okafor', 'Rossi', 'Singh'])
                             [1 + n * 5 %% 13] AS last_name) AS person
    """,
    """
    INSERT INTO shop_order (id, number, customer_id, status, placed_at)
    SELECT n, '2025-' || lpad(n::text, 7, '0'), 1 + n * 7919 %% %(customers)s,
           CASE WHEN n %% 20 = 0 THEN 'cart' WHEN n %% 7 = 0 THEN 'paid' ELSE 'shipped' END,
           timestamptz '2026-01-01 00:00Z' - n * interval '15 minutes'
    FROM generate_series(1, %(orders)s) AS n
    """,
    # The lines of one order are 17 products apart, so no order has a product twice.
    """
    INSERT INTO shop_orderline (id, order_id, product_id, quantity, unit_price)
    SELECT n, 1 + (n - 1) / 3, product.id, 1 + n * 31 %% 4, product.price
    FROM generate_series(1, %(rows)s) AS n
    JOIN shop_product product
        ON product.id = 1 + ((1 + (n - 1) / 3) * 7919 + n %% 3 * 17) %% %(products)s
    """,
    """
    INSERT INTO shop_document (id, title, media_type, content)
    VALUES (1, 'Catalogue 2026', 'application/octet-stream', lo_from_bytea(0, %(catalogue)s))
    """,
    """
    INSERT INTO shop_searchlog (id, phrase, hits, searched_at)
    SELECT n, (ARRAY['bell', 'child seat', 'helmet', 'lamp', 'pannier', 'pump'])[1 + n * 7 %% 6],
           n * 31 %% 90, timestamptz '2026-01-01 00:00Z' - n * interval '3 minutes'
    FROM generate_series(1, %(searches)s) AS n
    """,
)
MODELS: tuple[type[models.Model], ...] = (
    Category,
    Product,
    Customer,
    Order,
    OrderLine,
    Document,
    SearchLog,
)


class Command(BaseCommand):
    help = "Fills an empty shop. The same number of rows always gives the same shop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--rows",
            type=int,
            default=100_000,
            help="how many order lines to make; the other tables follow (default: 100000)",
        )

    def handle(self, *args: Any, rows: int, **options: Any) -> None:
        if rows < 1:
            raise CommandError("--rows must be 1 or more")
        if Product.objects.exists():
            raise CommandError("the shop is not empty; seed_shop fills only an empty one")
        parameters: dict[str, int | bytes] = {
            "rows": rows,
            "orders": (rows + 2) // 3,
            "customers": max(rows // 10, 20),
            "products": max(rows // 50, 60),
            "searches": rows // 4,
            # 256 KB that do not compress, as pictures would not.
            "catalogue": hashlib.shake_256(b"Catalogue 2026").digest(256 * 1024),
        }
        with transaction.atomic(), connection.cursor() as cursor:
            total = 0
            for statement in STATEMENTS:
                cursor.execute(statement, parameters)
                total += cursor.rowcount
            for statement in connection.ops.sequence_reset_sql(no_style(), MODELS):
                cursor.execute(statement)
            cursor.execute("ANALYZE")
        self.stdout.write(f"{total} rows in {len(MODELS)} tables")
