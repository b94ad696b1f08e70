"""Django's settings. What differs between machines comes from the environment (env.py)."""

import os
from datetime import timedelta
from pathlib import Path

from csp.constants import NONE, SELF
from django.templatetags.static import static

from appliance import env
from appliance.directory import configuration

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = env.data_folder()

SECRET_KEY = env.read_secret("SECRET_KEY") or env.own_secret(VAR / "secrets" / "django.key")
DEBUG = False
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")
CSRF_TRUSTED_ORIGINS = [o for o in os.environ.get("TRUSTED_ORIGINS", "").split(",") if o]

INSTALLED_APPS = [
    "unfold",
    "appliance",
    "django.contrib.admin",
    "retrieval",
    "workers",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "ninja",
    "axes",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "appliance.web.middleware.AdminPolicyMiddleware",
    "appliance.web.middleware.UploadLimitMiddleware",
    "appliance.web.middleware.NoNulMiddleware",
    "appliance.web.middleware.TokenOnlyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "appliance.web.middleware.DirectoryMiddleware",
    "appliance.web.middleware.SecondFactorMiddleware",
    "appliance.web.middleware.PasswordChangeMiddleware",
    "appliance.web.middleware.HeldAccountMiddleware",
    "appliance.web.middleware.EveryAnswerIsRecordedMiddleware",
    "appliance.web.middleware.FailClosedMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "appliance.urls"
WSGI_APPLICATION = "appliance.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "appliance" / "web" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "appliance.web.page.frame",
            ],
        },
    },
]

# One database; a process is one of its three roles. ATOMIC_REQUESTS stays off: an audit row must
# be committed even where the request it tells of fails.
DATABASES = {"default": env.database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "retrieval.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "appliance.directory.ldap.Backend",
    "appliance.directory.oidc.Backend",
]
CLOISTER_SIGN_IN = configuration.read(env.sign_in_file())
AXES_HANDLER = "appliance.web.lockout.Handler"
AXES_LOCKOUT_PARAMETERS = "appliance.web.lockout.parameters"
AXES_FAILURE_LIMIT = 100  # hundredths of a rule: the numbers are in lockout.py
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_USERNAME_CALLABLE = "appliance.web.lockout.username"
AXES_CLIENT_IP_CALLABLE = "appliance.web.address.client_address"
AXES_LOCKOUT_CALLABLE = "appliance.web.lockout.answer"
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
CLOISTER_TRUSTED_PROXIES = env.trusted_proxies()
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
CSRF_FAILURE_VIEW = "appliance.web.views.errors.csrf_failure"
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "search"
LOGOUT_REDIRECT_URL = "sign_in"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "appliance.web.formats"

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "appliance" / "web" / "static"]
WHITENOISE_USE_FINDERS = True

# Uploads stream to disk, never into the web process's memory.
FILE_UPLOAD_HANDLERS = ["appliance.web.upload.UnlinkedFileUploadHandler"]
FILE_UPLOAD_TEMP_DIR = env.private_folder(VAR / "quarantine")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

SESSION_ENGINE = "appliance.web.sessions"
CLOISTER_SESSION_IDLE_MIN, CLOISTER_SESSION_MAX_HOURS = env.session_limits()
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = CLOISTER_SESSION_MAX_HOURS * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
if os.environ.get("CLOISTER_BEHIND_TLS") == "1":
    # Set where a reverse proxy terminates TLS (docker/compose.yml); plain HTTP is for 127.0.0.1.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # A browser takes these names from this very host only, over TLS, for the whole site.
    SESSION_COOKIE_NAME = "__Host-session"
    CSRF_COOKIE_NAME = "__Host-csrf"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "blob:", "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}

CLOISTER_KEY_FILE = env.key_file()
CLOISTER_STORE = env.private_folder(VAR / "store")
CLOISTER_BROKER_URL = env.broker_url()
CLOISTER_CHECKPOINTS = env.checkpoints_folder()
CLOISTER_CHECKPOINTS_EXPECTED = env.expects_checkpoints()
CLOISTER_DETECTORS = env.detectors_file()
CLOISTER_SYSLOG, CLOISTER_SYSLOG_CA = env.log_server()
CLOISTER_OFFICER_MAIL, EMAIL_HOST, EMAIL_PORT = env.officer_mail()
EMAIL_TIMEOUT = 2
DEFAULT_FROM_EMAIL = "cloister@localhost"

UNFOLD = {
    "SITE_TITLE": "Cloister",
    "SITE_HEADER": "Cloister",
    "SITE_SUBHEADER": "Private image retrieval",
    "SITE_URL": "/",
    "ENVIRONMENT": "appliance.admin.break_glass.badge",
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [lambda _request: static("cloister/admin.css")],
    "SITE_ICON": lambda _request: static("cloister/icon.svg"),
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda _request: static("cloister/icon.svg"),
        }
    ],
    "COLORS": {
        "primary": {
            "50": "#eef7f6",
            "100": "#d5ebe8",
            "200": "#aed8d3",
            "300": "#7cc4bd",
            "400": "#4aa59d",
            "500": "#2f8780",
            "600": "#1f5f5b",
            "700": "#1c524e",
            "800": "#18423f",
            "900": "#143634",
            "950": "#0a201f",
        },
    },
    "SIDEBAR": {"show_search": False, "show_all_applications": False},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "cloister": {"level": "INFO"},
        # Its messages quote the request's path and query; ours name the id.
        "django.request": {"level": "ERROR"},
        # Addresses and browsers; what counts of it is on the log.
        "axes": {"level": "ERROR"},
    },
}
