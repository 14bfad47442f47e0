"""What commands share: options, output and progress. While a command loads, Ctrl-C ends its process."""

from mmkd_app.cli.interrupts import end_on_interrupt

end_on_interrupt()
