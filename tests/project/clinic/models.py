"""Tables of every shape, for what is anonymized. Without migrations: tests make the tables."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinLengthValidator
from django.db import models
from django.db.models.functions import Lower, Now, Upper


class Doctor(models.Model):
    badge = models.CharField(max_length=20, unique=True)

    def __str__(self) -> str:
        return self.badge


class Patient(models.Model):
    class State(models.TextChoices):
        NEW = "new"
        WELL = "well"

    first_name = models.CharField(max_length=60)
    last_name = models.CharField(max_length=60)
    name = models.CharField(max_length=9)
    email = models.EmailField(unique=True)
    phone = models.CharField(max_length=30, blank=True)
    nickname = models.CharField(max_length=30, unique=True)
    card = models.CharField(max_length=40)
    token = models.CharField(max_length=40, default="", db_default="")
    notes = models.TextField(default="", db_default="")
    born = models.DateField(null=True)
    state = models.CharField(max_length=10, choices=State, default=State.NEW, db_default="new")
    weight = models.IntegerField(default=70, db_default=70)
    allergies = ArrayField(models.CharField(max_length=30), default=list, db_default=[])
    history = models.JSONField(default=dict, db_default={})
    shouted = models.GeneratedField(
        expression=Upper("last_name"), output_field=models.CharField(max_length=60), db_persist=True
    )
    doctor = models.ForeignKey(Doctor, null=True, on_delete=models.CASCADE)
    badge = models.ForeignKey(
        Doctor, null=True, on_delete=models.CASCADE, to_field="badge", related_name="+"
    )
    friends = models.ManyToManyField("self")
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.CheckConstraint(condition=models.Q(weight__gt=0), name="clinic_weight"),
        )

    def __str__(self) -> str:
        return self.name


class Inpatient(Patient):
    """Has a table of its own beside that of Patient."""

    bed = models.CharField(max_length=10, validators=[MinLengthValidator(2)])


class Stranger(Patient):
    """Has no table of its own."""

    class Meta:
        proxy = True


class Sample(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    giver = models.TextField(db_column="Who's it", null=True)  # noqa: DJ001 - for its sake
    e_mail = models.EmailField(db_column="E-Mail {x}")

    class Meta:
        db_table = "Clinic Sämple"
        constraints = (models.UniqueConstraint(Lower("e_mail"), name="clinic_e_mail"),)

    def __str__(self) -> str:
        return str(self.pk)


class Visit(models.Model):
    pk = models.CompositePrimaryKey("ward", "number")
    ward = models.CharField(max_length=10)
    number = models.IntegerField()
    visitor = models.CharField(max_length=60)

    def __str__(self) -> str:
        return self.visitor


class Measurement(models.Model):
    """Tests make its table, in partitions."""

    id = models.IntegerField(primary_key=True)
    person = models.CharField(max_length=60)

    class Meta:
        managed = False
        db_table = "clinic_measurement"

    def __str__(self) -> str:
        return self.person


class Account(AbstractBaseUser):
    login = models.CharField(max_length=60, unique=True)
    address = models.GenericIPAddressField(null=True)
    is_active = models.BooleanField(default=True, db_default=True)

    USERNAME_FIELD = "login"
