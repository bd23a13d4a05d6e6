FROM python:3.13-slim

WORKDIR /srv/agent-credits
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY app ./app
COPY migrations ./migrations
COPY pyproject.toml README.md LICENSE schema.graphql ./

RUN useradd --system --no-create-home --shell /usr/sbin/nologin credits
USER credits

ENV ENVIRONMENT=production HOST=0.0.0.0 PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "app", "serve"]
