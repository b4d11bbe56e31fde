from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from example_project.shop.models import Order

AGE = timedelta(days=30)


class Command(BaseCommand):
    help = (
        f"Marks carts that nobody paid for in {AGE.days} days as abandoned. As a pre-dump hook it "
        "runs on the database the site uses, and does it no harm."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        closed = Order.objects.filter(
            status=Order.Status.CART, placed_at__lt=timezone.now() - AGE
        ).update(status=Order.Status.ABANDONED)
        self.stdout.write(f"{closed} abandoned carts closed")
