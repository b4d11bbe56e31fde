from django.contrib.postgres.indexes import BrinIndex, GinIndex
from django.db import connections, models
from django.db.models.functions import Now

from example_project.shop.fields import LargeObjectField


class Category(models.Model):
    name = models.CharField(max_length=80, unique=True)
    parent = models.ForeignKey(
        "self", on_delete=models.PROTECT, related_name="children", null=True, blank=True
    )

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "categories"

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    sku = models.CharField("SKU", max_length=20, unique=True)
    name = models.CharField(max_length=120)
    category = models.ForeignKey(Category, on_delete=models.PROTECT, related_name="products")
    price = models.DecimalField(max_digits=9, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)
    attributes = models.JSONField(default=dict, blank=True)

    class Meta:
        indexes = (
            models.Index(fields=("category", "price"), name="shop_product_category_price"),
            GinIndex(fields=("attributes",), name="shop_product_attributes"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(price__gte=0), name="shop_product_price_not_negative"
            ),
        )

    def __str__(self) -> str:
        return self.name


class Customer(models.Model):
    first_name = models.CharField(max_length=60)
    last_name = models.CharField(max_length=60)
    email = models.EmailField(unique=True)
    phone = models.CharField(max_length=30, blank=True)
    joined_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (models.Index(fields=("last_name", "first_name"), name="shop_customer_name"),)

    def __str__(self) -> str:
        return f"{self.first_name} {self.last_name}"


class Order(models.Model):
    class Status(models.TextChoices):
        CART = "cart"
        ABANDONED = "abandoned"
        PAID = "paid"
        SHIPPED = "shipped"

    number = models.CharField(max_length=20, unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    status = models.CharField(max_length=10, choices=Status, default=Status.CART)
    placed_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (models.Index(fields=("status", "placed_at"), name="shop_order_status_placed"),)

    def __str__(self) -> str:
        return self.number


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="order_lines")
    quantity = models.PositiveSmallIntegerField(default=1)
    unit_price = models.DecimalField(max_digits=9, decimal_places=2)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("order", "product"), name="shop_orderline_once"),
            models.CheckConstraint(
                condition=models.Q(quantity__gt=0), name="shop_orderline_quantity"
            ),
        )

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"


class Document(models.Model):
    """A catalogue or manual, kept in the database as a large object."""

    title = models.CharField(max_length=120, unique=True)
    media_type = models.CharField(max_length=80)
    content = LargeObjectField(editable=False)

    def __str__(self) -> str:
        return self.title

    def read(self) -> bytes:
        with connections[self._state.db or "default"].cursor() as cursor:
            cursor.execute("SELECT lo_get(%s)", [self.content])
            return bytes(cursor.fetchone()[0])


class SearchLog(models.Model):
    """What visitors searched for: large, quickly out of date, and nothing refers to it."""

    phrase = models.CharField(max_length=120)
    hits = models.PositiveIntegerField()
    searched_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (BrinIndex(fields=("searched_at",), name="shop_searchlog_searched_at"),)
        verbose_name = "search"
        verbose_name_plural = "searches"

    def __str__(self) -> str:
        return self.phrase
