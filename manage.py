#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "appliance.settings")
    if sys.argv[1:2] in (["encoder"], ["finetune"]):
        # The model side's commands: they see every collection's images, one collection at a time.
        os.environ.setdefault("CLOISTER_DATABASE_ROLE", "worker")
    execute_from_command_line(sys.argv)
