"""Tokens of common identity providers, with the settings that `docs/production.md` names for each.

The claims are written by hand, after the providers' documentation.
"""

import asyncio
import re
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app.auth.caller import CallerKind
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.settings import Settings
from tests.auth.token_issuer import claims, fixed, sign
from tests.command_line import REPOSITORY

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
UUID: Final = "6a1e4a4e-21b6-4c8d-9d1e-0f4c5f0b7a11"

PROVIDERS: Final[dict[str, tuple[dict[str, str], dict[str, Any]]]] = {
    "Auth0": (
        {
            "JWT_ISSUER": "https://TENANT.eu.auth0.com/",
            "JWT_AUDIENCE": "https://credits.example.com",
            "JWT_ROLES_CLAIM": "https://app.example.com/roles",
            "JWT_ORGANISATIONS_CLAIM": "org_id",
        },
        {
            "sub": "auth0|507f1f77bcf86cd799439020",
            "aud": ["https://credits.example.com", "https://TENANT.eu.auth0.com/userinfo"],
            "azp": "my_client_id",
            "scope": "openid profile offline_access",
            "permissions": ["read:balance"],
            "https://app.example.com/roles": ["credits-admin"],
            "org_id": "org_9ybsU1dN2dKfDkBi",
        },
    ),
    "Keycloak": (
        {
            "JWT_ISSUER": "https://sso.example.com/realms/app",
            "JWT_AUDIENCE": "credits",
            "JWT_ROLES_CLAIM": "realm_access.roles",
            "JWT_ORGANISATIONS_CLAIM": "organization",
        },
        {
            "jti": "onrtac:0f6d9a0c",
            "sub": UUID,
            "aud": ["credits", "account"],
            "typ": "Bearer",
            "azp": "web",
            "acr": "1",
            "allowed-origins": ["https://app.example.com"],
            "realm_access": {"roles": ["offline_access", "credits-admin"]},
            "resource_access": {"account": {"roles": ["manage-account"]}},
            "scope": "openid email organization",
            "email_verified": True,
            "organization": {"acme": {"id": "42c3e46f-2477-44d7-a85b-d3b43f6b31fa"}},
        },
    ),
    "Supabase": (
        {
            "JWT_ISSUER": "https://PROJECT.supabase.co/auth/v1",
            "JWT_AUDIENCE": "authenticated",
            "JWT_ROLES_CLAIM": "app_metadata.roles",
            "JWT_ORGANISATIONS_CLAIM": "app_metadata.organisations",
        },
        {
            "sub": UUID,
            "aud": "authenticated",
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": 1_760_000_000}],
            "session_id": UUID,
            "email": "alice@example.com",
            "phone": "",
            "is_anonymous": False,
            "app_metadata": {"provider": "email", "roles": ["credits-admin"], "organisations": ["acme"]},
            "user_metadata": {},
        },
    ),
    "Clerk": (
        {
            "JWT_ISSUER": "https://clerk.app.example.com",
            "JWT_AUDIENCE_CLAIM": "azp",
            "JWT_AUDIENCE": "https://app.example.com",
            "JWT_ROLES_CLAIM": "public_metadata.roles",
            "JWT_ORGANISATIONS_CLAIM": "o.id",
        },
        {
            "sub": "user_2NNEqL2nrIRdJ194ndJqAHwEfxC",
            "azp": "https://app.example.com",
            "nbf": 1_760_000_000,
            "fva": [0, -1],
            "sid": "sess_2Ng3Pb",
            "sts": "active",
            "v": 2,
            "o": {"id": "org_2abc", "rol": "admin", "slg": "acme"},
            "public_metadata": {"roles": ["credits-admin"]},
        },
    ),
    "Cognito": (
        {
            "JWT_ISSUER": "https://cognito-idp.REGION.amazonaws.com/POOL",
            "JWT_AUDIENCE_CLAIM": "client_id",
            "JWT_AUDIENCE": "CLIENT",
            "JWT_ROLES_CLAIM": "cognito:groups",
            "JWT_ORGANISATIONS_CLAIM": "custom:organisation",
        },
        {
            "sub": UUID,
            "client_id": "CLIENT",
            "token_use": "access",
            "scope": "openid",
            "auth_time": 1_760_000_000,
            "jti": UUID,
            "username": "alice",
            "cognito:groups": ["credits-admin"],
            "custom:organisation": "acme",
        },
    ),
    "Firebase": (
        {
            "JWT_ISSUER": "https://securetoken.google.com/PROJECT",
            "JWT_AUDIENCE": "PROJECT",
            "JWT_ROLES_CLAIM": "roles",
            "JWT_ORGANISATIONS_CLAIM": "firebase.tenant",
        },
        {
            "sub": "vP0u2nZ6kYQxS3x1",
            "user_id": "vP0u2nZ6kYQxS3x1",
            "aud": "PROJECT",
            "auth_time": 1_760_000_000,
            "email": "alice@example.com",
            "firebase": {
                "identities": {"email": ["alice@example.com"]},
                "sign_in_provider": "password",
                "tenant": "acme-1",
            },
            "roles": {"credits-admin": True, "author": False},
        },
    ),
}
ORGANISATIONS: Final = {"Auth0": "org_9ybsU1dN2dKfDkBi", "Clerk": "org_2abc", "Firebase": "acme-1"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_token_of_the_provider_is_accepted_with_the_documented_settings(provider: str) -> None:
    values, particular = PROVIDERS[provider]
    settings = Settings.model_validate({name.lower(): value for name, value in values.items()})
    verifier = TokenVerifier(fixed(one=KEY), TokenRequirements.from_settings(settings))
    payload = claims(particular, iss=values["JWT_ISSUER"], without=None if "aud" in particular else "aud")

    caller = asyncio.run(verifier.verify(sign(KEY, payload, algorithm="RS256")))

    assert (caller.kind, caller.owner_id) == (CallerKind.OPERATOR, particular["sub"])
    assert caller.organisations == {ORGANISATIONS.get(provider, "acme")}


def test_the_documented_settings_are_those_that_are_tested() -> None:
    page = (REPOSITORY / "docs/production.md").read_text()
    rows = dict(re.findall(r"^\| ([A-Z]\w+) \| (`JWT_.*) \|$", page, re.MULTILINE))
    documented = {provider: dict(re.findall(r"`(JWT_\w+)=([^`]+)`", row)) for provider, row in rows.items()}
    assert documented == {provider: values for provider, (values, _) in PROVIDERS.items()}
