from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from example_project.shop.models import Order, Product


def index(request: HttpRequest) -> HttpResponse:
    products = Product.objects.select_related("category").order_by("sku")
    return render(
        request,
        "shop/index.html",
        {
            "products": products[:30],
            "product_count": products.count(),
            "order_count": Order.objects.exclude(status=Order.Status.CART).count(),
        },
    )
