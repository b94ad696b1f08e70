from django.apps import AppConfig


class ApplianceConfig(AppConfig):
    name = "appliance"

    def ready(self) -> None:
        import appliance.checks  # noqa: F401, PLC0415  registers the system checks
