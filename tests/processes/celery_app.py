"""The same for Celery, whose broker is a folder."""

import os

from celery import Celery

from tests.processes import app as application

folder = os.environ["TEST_QUEUE"]
app = Celery("celery_app", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": folder,
    "data_folder_out": folder,
    "control_folder": folder,
    "polling_interval": 0.1,
}
config = application.config
