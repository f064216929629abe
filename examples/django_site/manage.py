"""A Django project: one client in a module of its own, and its callbacks in the app's `ready`.

    pip install configsvc django
    python manage.py runserver

Then `curl http://127.0.0.1:8000/`. In production: `gunicorn --workers 2 mysite.wsgi`, with or without `--preload`.
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
