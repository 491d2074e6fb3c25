#!/usr/bin/env python3
"""users.py NAME [ITERATIONS]: asks for a password, prints the line of this user for the configuration."""

import getpass
import hashlib
import secrets
import sys

name = sys.argv[1]
iterations = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
if not name or ":" in name or name[0] == "#" or name.startswith("realm "):
    sys.exit("expected a name without colon that does not begin with # or realm")

password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
if not password or any(ord(c) < 32 or ord(c) == 127 for c in password):
    sys.exit("expected a password without control characters")
salt = secrets.token_bytes(16)
key = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
print(f"{name}:{iterations}:{salt.hex()}:{key.hex()}")
