import json
import signal
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from appliance import env
from appliance.embedded import supervisor
from retrieval.errors import ServicesUnavailable


class Command(BaseCommand):
    help = (
        "Run the data folder's database and broker, migrated, with no workers and no web until "
        "^C. With --json it says where the database is once it answers."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true")

    def handle(self, *, json: bool, **_options: Any) -> None:
        var = env.data_folder()
        # ^C as well: who starts in the background of a script inherits that it is ignored.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            with supervisor.running(var, serves=True) as appliance:
                if json:
                    self.stdout.write(where())
                    self.stdout.flush()
                while True:
                    appliance.revive()
                    time.sleep(0.25)
        except ServicesUnavailable as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            return


def where() -> str:
    found = env.database()
    return json.dumps({key: found[key] for key in ("HOST", "PORT", "NAME", "OPTIONS")})
