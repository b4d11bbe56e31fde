from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from django.core.management.base import BaseCommand, CommandParser
from django.core.wsgi import get_wsgi_application


class Command(BaseCommand):
    help = "Serves the site from a fixed number of threads, which keep their connections."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--threads", type=int, default=20)

    def handle(self, *args: Any, **options: Any) -> None:
        pool = ThreadPoolExecutor(options["threads"])

        class Server(WSGIServer):
            request_queue_size = 100

            def process_request(self, request: Any, client_address: Any) -> None:
                pool.submit(self._answer, request, client_address)

            def _answer(self, request: Any, client_address: Any) -> None:
                try:
                    self.finish_request(request, client_address)
                finally:
                    self.shutdown_request(request)

        class Quiet(WSGIRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

        server = Server(("127.0.0.1", 0), Quiet)
        server.set_app(get_wsgi_application())
        self.stdout.write(f"serving {server.server_address[1]}")
        self.stdout.flush()
        server.serve_forever()
