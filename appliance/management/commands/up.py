import secrets
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from appliance import env
from appliance.embedded import supervisor
from appliance.embedded.supervisor import AlreadyRunning
from retrieval.errors import ServicesUnavailable
from retrieval.models import User


class Command(BaseCommand):
    help = "Run the whole appliance on this machine until ^C: database, broker, workers and web."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *, port: int, **_options: Any) -> None:
        var = env.data_folder()
        # A stop while it starts ends what has started, as a stop later does.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            supervisor.require_free_port(port)
            with supervisor.running(var, serves=True) as appliance:
                password = first_administrators_password()
                connection.close()
                programs = (supervisor.web(port), *supervisor.WORKERS, supervisor.CHECKPOINTS)
                for program in programs:
                    appliance.start(program)
                appliance.wait_for_web(port)
                self.say(f"Cloister answers on http://127.0.0.1:{port}/ (data in {var})")
                self.say(f"key file: {env.key_file()}  keep a copy of it apart from the data")
                if password is not None:
                    self.say(f"first administrator: admin, one-time password: {password}")
                self.say("stop with ^C")
                appliance.watch()
                self.say("stopping")
        except KeyboardInterrupt:
            self.say("stopped while starting")
        except AlreadyRunning as error:
            raise CommandError(f"{error}; stop it first, or set CLOISTER_VAR") from error
        except ServicesUnavailable as error:
            raise CommandError(str(error)) from error

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def first_administrators_password() -> str | None:
    """Make the first administrator, or a new password for one who never signed in.

    None once somebody has: from then on passwords change in the admin, or by `changepassword`.
    """
    administrators = User.objects.filter(is_superuser=True)
    if administrators.exclude(last_login=None, must_change_password=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    admin, _ = User.objects.get_or_create(
        username="admin",
        defaults={"is_staff": True, "is_superuser": True, "must_change_password": True},
    )
    admin.set_password(password)
    admin.save()
    return password
