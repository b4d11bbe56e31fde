import os

from django.core.wsgi import get_wsgi_application

from example_project import embedded

embedded.provide()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
application = get_wsgi_application()
