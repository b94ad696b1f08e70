"""The API for programs, /api/v1/: tokens instead of sessions, the same domain beneath.

api.py         the routes put together, and what becomes of errors
auth.py        a token, and the purpose of use a request is for
document.py    the OpenAPI document
problems.py    every error as RFC 9457 has it
paging.py      cursors
client.py      a client in one file, for programs in Python
"""
