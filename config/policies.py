"""The regions' policies, read once from TOML files. A new city is a new file here and nothing else.

A city may have several files, one for each version of its rules: the one that took effect last is current, the others are kept
for applications accepted under them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from pipeline.errors import NotFound
from pipeline.policy import Policy, read

DIRECTORY = Path(__file__).parent / "regions"
PHOTO_PROFILES = Path(__file__).parent / "photo"


class PolicyFileError(ValueError):
    """A region's file is wrong; `zh` and `en` name the file and every key at fault."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(f"{zh} / {en}")
        self.zh = zh
        self.en = en


@dataclass(frozen=True, slots=True)
class Policies:
    """Every region's rules, by code: cities, their sub-regions (WH-30), and plain districts, which have their city's."""

    _current: Mapping[str, Policy]
    _versions: Mapping[tuple[str, str], Policy]

    def of(self, region_code: str, version: str | None = None) -> Policy:
        """The policy of a region, or the version of it that an application was accepted under.

        Raises:
            NotFound: no such region, or the version is no longer kept.
        """
        policy = self._current.get(region_code)
        if policy is None:
            raise NotFound(f"未开通的地区代码 {region_code}", f"no such region: {region_code}", code="region.unknown")
        if version is None or version == policy.version:
            return policy
        kept = self._versions.get((region_code, version))
        if kept is None:
            raise NotFound(
                f"{policy.zh}没有政策版本 {version}",
                f"{policy.en} has no policy version {version}",
                code="policy.unknown",
            )
        return kept

    def cities(self) -> tuple[Policy, ...]:
        """The current policy of each city, by code."""
        return tuple(
            policy for code, policy in sorted(self._current.items()) if code == policy.code and policy.parent is None
        )


def load_policies(directory: Path = DIRECTORY) -> Policies:
    """Read every `*.toml` of a directory.

    Raises:
        PolicyFileError: a file is not TOML or not a policy, names a photo profile that is not there, two files claim the same, or
            there is none.
    """
    current: dict[str, Policy] = {}
    versions: dict[tuple[str, str], Policy] = {}
    origin: dict[tuple[str, object], str] = {}
    for path in sorted(directory.glob("*.toml")):
        policies = _read_file(path)
        _check_photo_profiles(path, policies)
        city = policies[0]
        other = origin.setdefault((city.code, city.effective), path.name)
        if other != path.name:
            raise PolicyFileError(
                f"{path.name} 与 {other} 地区代码及生效日期相同",
                f"{path.name}: key code: same region and effective date as {other}",
            )
        covered = dict.fromkeys((city.code, *city.districts), city) | {policy.code: policy for policy in policies}
        versions |= {(code, policy.version): policy for code, policy in covered.items()}
        current |= {
            code: policy
            for code, policy in covered.items()
            if code not in current or current[code].effective < policy.effective
        }
    if not current:
        raise PolicyFileError(
            f"{directory.name} 目录下没有地区政策文件", f"no policy file in directory {directory.name}"
        )
    return Policies(MappingProxyType(current), MappingProxyType(versions))


def _read_file(path: Path) -> tuple[Policy, ...]:
    try:
        return read(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{path.name} 不是有效的 TOML: {error}", f"{path.name} is not TOML: {error}") from error
    except ValidationError as error:
        raise _explained(path, error) from error


def _check_photo_profiles(path: Path, policies: tuple[Policy, ...]) -> None:
    there = sorted(profile.stem for profile in PHOTO_PROFILES.glob("*.toml"))
    for policy in policies:
        name = policy.photo.profile.value
        if name not in there:
            told = f"{path.name}: {policy.code}: photo.profile.value: {name!r}"
            raise PolicyFileError(
                f"{told} 不是照片规格，可用：{'、'.join(there)}",
                f"{told} is no photo profile; there are: {', '.join(there)}",
            )


_KINDS = {"missing": ("缺少此项", "is missing"), "extra_forbidden": ("未知的键", "is not a known key")}


def _explained(path: Path, error: ValidationError) -> PolicyFileError:
    zh, en = [], []
    for item in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in item["loc"]) or "(file)"
        told = _KINDS.get(item["type"], (item["msg"], item["msg"]))
        zh.append(f"{key}: {told[0]}")
        en.append(f"{key}: {told[1]}")
    return PolicyFileError(f"{path.name} 有误: {'; '.join(zh)}", f"{path.name} is wrong: {'; '.join(en)}")
