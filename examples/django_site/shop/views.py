import os

from django.http import HttpRequest, JsonResponse

from .live import config


def index(request: HttpRequest) -> JsonResponse:
    page_size = config.get_int("page.size", default=20, min_val=1, max_val=100)
    return JsonResponse({"page_size": page_size, "pid": os.getpid()})
