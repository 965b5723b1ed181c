"""The objects of a fleet for asyncio; tools/write_sync.py makes `backhaul.objects` of them."""
