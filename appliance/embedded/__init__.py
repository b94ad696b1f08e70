"""The one-machine default: PostgreSQL and Valkey from wheels, and the processes beside them.

postgres.py, valkey.py   one server each: command line, health check, repair of what a crash left
process.py               start a child that cannot outlive us, and stop it
supervisor.py            who starts what, in which order, under which lock
"""
