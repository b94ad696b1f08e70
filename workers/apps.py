from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """Listed for its management commands; importing it loads no model code."""

    name = "workers"
