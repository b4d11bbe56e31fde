"""The pages, with Django's test client and real databases."""
