from __future__ import annotations

from typing import Any

from django.db import migrations, models


def fill(apps: Any, schema_editor: Any) -> None:
    people = apps.get_model("people", "Person").objects.using(schema_editor.connection.alias)
    for person in people.all():
        person.nickname = person.name.split()[0].lower()
        person.save()


class Migration(migrations.Migration):
    dependencies = [("people", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="person",
            name="nickname",
            field=models.CharField(db_default="", default="", max_length=100),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
