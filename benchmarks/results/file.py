"""results.json: read strictly, written in one step.

One entry of a list a line, so that a file of thousands of samples still reads and compares as text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.results.decoding import DecodingError, decode, encode
from anyflow_rt.benchmarks.results.values import SCHEMA, Results, ResultsError
from anyflow_rt.errors import OutputError
from anyflow_rt.output.target import OutputFile, output_error

RESULTS_NAME = "results.json"
_MEND = "make it again with  anyflow-rt bench --report DIR"


def read_results(path: str | Path) -> Results:
    """The results in a file, or in ``results.json`` of a directory. Raises ResultsError naming file, key and mend."""
    file = Path(path)
    if file.is_dir():
        file /= RESULTS_NAME
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(f"there is no results file {file}; {_MEND}") from None
    except UnicodeDecodeError:
        raise ResultsError(f"{file} is not text, so it is no results file; {_MEND}") from None
    except OSError as error:
        raise ResultsError(f"{file} cannot be read ({error.strerror}); check its permissions") from None
    try:
        return results_from_json(text)
    except ResultsError as error:
        raise ResultsError(f"{file}: {error}") from error


def results_from_json(text: str) -> Results:
    """Read ``results_to_json``'s text. Raises ResultsError naming the key and the mend."""
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResultsError(f"not valid JSON (line {error.lineno}: {error.msg}); {_MEND}") from None
    except ValueError:
        raise ResultsError(f"not valid JSON (a number of thousands of digits); {_MEND}") from None
    except RecursionError:
        raise ResultsError(f"not valid JSON (nested without end); {_MEND}") from None
    if not isinstance(body, dict):
        raise ResultsError(f"a JSON {type(body).__name__}, not an object; {_MEND}")
    if "benchmarks" in body:
        raise ResultsError(f"these are the developers' benchmarks (python -m anyflow_rt.benchmarks); {_MEND}")
    if "schema" not in body:
        raise ResultsError(f"schema is missing, so this is no results file; {_MEND}")
    schema = body.pop("schema")
    if type(schema) is not int or schema != SCHEMA:
        mend = "use the anyflow-rt that wrote it, or measure again"
        raise ResultsError(f"schema is {json.dumps(schema)}, and this anyflow-rt reads {SCHEMA}; {mend}")
    valid = body.pop("valid", None)
    try:
        results: Results = decode(Results, body)
    except DecodingError as error:
        raise ResultsError(f"{error}; mend it by hand or {_MEND}") from None
    if valid not in (None, results.valid):
        reasons = json.dumps(list(results.invalid_reasons))
        raise ResultsError(f"valid is {json.dumps(valid)}, but invalid_reasons is {reasons}; {_MEND}")
    return results


def results_to_json(results: Results) -> str:
    """The text of ``results.json``. ``valid`` is written for readers; it follows from ``invalid_reasons``."""
    body = {"schema": SCHEMA, **encode(results), "valid": results.valid}
    return "{\n" + ",\n".join(f"{_dump(key)}: {_block(value)}" for key, value in body.items()) + "\n}\n"


def write_results(results: Results, path: str | Path) -> None:
    """Write ``path`` by way of a temporary sibling. Raises OutputError; what was there stays then."""
    write_files({Path(path): results_to_json(results).encode()})


def write_files(contents: dict[Path, bytes]) -> None:
    """Write every file to a temporary sibling, then put all in place, in order. Raises OutputError.

    A failure while writing leaves everything as it was. Putting in place is one rename a file.
    """
    refuse_directories(contents)
    files = [OutputFile(path) for path in contents]
    try:
        for file, content in zip(files, contents.values(), strict=True):
            file.create()
            try:
                file.temporary.write_bytes(content)
            except OSError as error:
                raise output_error(file.path, error) from error
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()


def keep_older(path: Path) -> Path | None:
    """Copy a file that is to be replaced to a name with its date. None where there is none; raises OutputError."""
    if not path.is_file():
        return None
    written = time.strftime("%Y-%m-%dT%H%M%S", time.localtime(path.stat().st_mtime))
    older = path.with_name(f"{path.stem}.{written}{path.suffix}")
    write_files({older: path.read_bytes()})
    return older


def refuse_directories(files: Iterable[Path]) -> None:
    """Raise OutputError where a directory stands in the place of a file."""
    for file in files:
        if file.is_dir():
            raise OutputError(f"cannot write {file}: it is a directory; remove it or name another place")


def _block(value: Any) -> str:
    """A list or an object with an entry a line, anything else on one."""
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(_dump(each) for each in value) + "\n]"
    if isinstance(value, dict) and value:
        return "{\n  " + ",\n  ".join(f"{_dump(key)}: {_dump(each)}" for key, each in value.items()) + "\n}"
    return _dump(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
