"""A PLC that is read through Modbus: three registers of a sensor that turns, and the line that answers for it.

    python examples/live/plc.py

Starts a PLC on this machine, as pymodbus simulates one, and mmkd-run on the shipped student for ten seconds. A real one
is `--source modbus://ADDRESS` with the registers of its manual. Needs `mmkd-edge[ort,live]`.
"""

import asyncio
import math
import subprocess
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from mmkd_edge import example_bundle

PORT, RATE_HZ, SECONDS = 5020, 50, 10
RUN = "from mmkd_app.commands.run import main; main()"
CHANNELS = [f"--map=a{axis}=h{number}:int16*0.001" for number, axis in enumerate("xyz")]
SOURCE = ["--source", f"modbus://127.0.0.1:{PORT}", *CHANNELS, "--sink", "-"]


async def turn(plc: ModbusTcpServer) -> None:
    """Write what the sensor measures, in thousandths of g, into registers 0 to 2."""
    for number in range(SECONDS * RATE_HZ):
        angle = 2 * math.pi * number / RATE_HZ
        values = [round(1000 * value) for value in (math.sin(angle), math.cos(angle), 0.1)]
        await plc.async_setValues(1, 16, 0, [value & 0xFFFF for value in values])
        await asyncio.sleep(1 / RATE_HZ)


async def main() -> None:
    """Start the PLC and the line beside it, and end the line as an operator does."""
    device = SimDevice(id=1, simdata=[SimData(0, count=3, values=0, datatype=DataType.REGISTERS)])
    plc = ModbusTcpServer(device, address=("127.0.0.1", PORT))
    await plc.serve_forever(background=True)
    line = subprocess.Popen([sys.executable, "-c", RUN, example_bundle(), *SOURCE])
    await turn(plc)
    line.terminate()
    await asyncio.to_thread(line.wait)
    await plc.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
