from busybox as base
run echo a
from base
copy --from=BASE /a /b
