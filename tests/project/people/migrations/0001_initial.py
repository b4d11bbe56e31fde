from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


def id_field() -> models.BigAutoField:  # type: ignore[type-arg]
    return models.BigAutoField(
        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
    )


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="Person",
            fields=[
                ("id", id_field()),
                ("name", models.CharField(max_length=100)),
                ("born", models.DateField(blank=True, null=True)),
                ("about", models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", id_field()),
                ("text", models.TextField()),
                (
                    "person",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="people.person",
                    ),
                ),
            ],
            options={"db_table": "MyTable"},
        ),
        migrations.CreateModel(
            name="Secret",
            fields=[
                ("id", id_field()),
                ("value", models.TextField()),
            ],
            options={"db_table": "my.tab ü"},
        ),
    ]
