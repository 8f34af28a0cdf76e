"""Compares what the node agent reads with what nvidia-smi says.

    compare.py RECORDING.json SMI.xml
"""

import json
import sys
import xml.etree.ElementTree as xml


def number(text):
    word = (text or "").split()[0] if text else ""
    try:
        return float(word)
    except ValueError:
        return None


def main(recording, smi):
    ours = json.load(open(recording))
    root = xml.parse(smi).getroot()
    wrong = 0

    def check(what, mine, theirs, same):
        nonlocal wrong
        wrong += not same
        print(f"{'ok   ' if same else 'WRONG'} {what}: {mine} | nvidia-smi: {theirs}")

    def equal(what, mine, theirs):
        check(what, mine, theirs, mine == theirs)

    def near(what, mine, theirs, slack):
        check(what, mine, theirs, None not in (mine, theirs) and abs(mine - theirs) <= slack)

    equal("driver", ours["driver"], root.findtext("driver_version"))
    equal("cuda", ours["cuda"], root.findtext("cuda_version"))
    theirs = root.findall("gpu")
    equal("count", len(ours["gpus"]), len(theirs))
    for mine, its in zip(ours["gpus"], theirs):
        equal("uuid", mine["uuid"], its.findtext("uuid"))
        equal("name", mine["name"], its.findtext("product_name"))
        equal("minor", str(mine.get("minor")), its.findtext("minor_number"))
        bus = its.get("id", "").lower()
        check("bus", mine["pci"]["busId"], bus, bus.endswith(mine["pci"]["busId"]))
        near("memory MiB", mine["memory"]["total"] >> 20, number(its.findtext("fb_memory_usage/total")), 1)
        near("reserved MiB", mine["memory"].get("reserved", 0) >> 20, number(its.findtext("fb_memory_usage/reserved")), 2)
        mode = (mine.get("computeMode") or "").replace("-", "_")
        equal("compute mode", mode, (its.findtext("compute_mode") or "").lower())
        mig = mine.get("mig")
        its_mig = its.findtext("mig_mode/current_mig")
        equal("mig", None if mig is None else mig["enabled"], {"Enabled": True, "Disabled": False}.get(its_mig))
        ecc = mine.get("ecc")
        its_ecc = its.findtext("ecc_mode/current_ecc")
        equal("ecc is counted", ecc is not None, its_ecc == "Enabled")
        near("temperature", mine.get("temperature"), number(its.findtext("temperature/gpu_temp")), 5)
        power = its.findtext("gpu_power_readings/instant_power_draw") or its.findtext("gpu_power_readings/power_draw")
        near("power W", (mine.get("powerMilliwatts") or 0) / 1000, number(power), 60)
        print("      energy mJ", mine.get("energyMillijoules"), "links", mine.get("links"), "pci", mine["pci"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
