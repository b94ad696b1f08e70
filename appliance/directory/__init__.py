"""The organisation's own directory: LDAP, or an OpenID provider, as the operator's file says.

configuration.py   that file
names.py           a group by its DN, or by a plain name
accounts.py        an entry of a directory as an account of ours
ldap.py            asking an LDAP server
oidc.py            asking an OpenID provider
"""
