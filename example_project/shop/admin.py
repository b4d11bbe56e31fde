from django.contrib import admin
from django.http import HttpRequest

from example_project.shop.models import (
    Category,
    Customer,
    Document,
    Order,
    OrderLine,
    Product,
    SearchLog,
)


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):
    list_display = ("name", "parent")
    list_select_related = ("parent",)
    search_fields = ("name",)


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ("sku", "name", "category", "price", "stock")
    list_filter = ("category",)
    list_select_related = ("category",)
    search_fields = ("sku", "name")


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    list_display = ("last_name", "first_name", "email", "joined_at")
    search_fields = ("last_name", "first_name", "email")


class OrderLineInline(admin.TabularInline):
    model = OrderLine
    extra = 0
    autocomplete_fields = ("product",)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("number", "customer", "status", "placed_at")
    list_filter = ("status",)
    list_select_related = ("customer",)
    search_fields = ("number", "customer__last_name")
    date_hierarchy = "placed_at"
    autocomplete_fields = ("customer",)
    inlines = (OrderLineInline,)


class ReadOnly:
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Document)
class DocumentAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("title", "media_type")


@admin.register(SearchLog)
class SearchLogAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("phrase", "hits", "searched_at")
    date_hierarchy = "searched_at"
