module example.invalid/tools/pause

go 1.26
