import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "appliance.settings")

application = get_wsgi_application()

from retrieval import access  # noqa: E402

# A web process whose database role could read past row-level security does not start.
access.require_bound_role()
