"""Every text of the page, in English and in Simplified Chinese. What a verb says itself stays English."""
# ruff: noqa: RUF001 - Chinese has punctuation of its own

from __future__ import annotations

LANGUAGES = ("en", "zh")
TAGS = {"en": "en", "zh": "zh-Hans"}  # for the lang attribute
NAMES = {"en": "English", "zh": "简体中文"}

TEXTS: dict[str, tuple[str, str]] = {
    "title": ("onebay", "onebay"),
    "skip": ("Skip to content", "跳到正文"),
    "language": ("Language", "语言"),
    "login": ("Log in", "登录"),
    "logout": ("Log out", "退出登录"),
    "code": ("One-time code", "一次性代码"),
    "code-where": (
        "It is on the console of this machine, or in the terminal where onebay web was started. Each login "
        "uses it up.",
        "代码显示在本机控制台上，或启动 onebay web 的终端中。每次登录都会用掉一个代码。",
    ),
    "code-wrong": ("That is not the code on the console.", "这不是控制台上的代码。"),
    "code-wait": (
        "Too many wrong codes. Wait {seconds} s, then type the code that is on the console now.",
        "错误次数过多。请等待 {seconds} 秒，再输入控制台上当前显示的代码。",
    ),
    "home": ("Disks", "磁盘"),
    "jobs": ("Jobs", "任务"),
    "no-disks": ("No disk was found.", "没有找到磁盘。"),
    "no-disks-hint": (
        "Is the disk connected, and does this system know its controller? Then look again.",
        "磁盘是否已连接？系统是否支持其控制器？请检查后重新查看。",
    ),
    "no-jobs": ("Nothing was started yet.", "尚未启动任何任务。"),
    "look-again": ("Look again", "重新查看"),
    "size": ("Size", "容量"),
    "model": ("Model", "型号"),
    "serial": ("Serial number", "序列号"),
    "none": ("none", "无"),
    "open-disk": ("Open {name}", "打开 {name}"),
    "picture-of": ("What is on {name}, to scale", "{name} 上的内容（按比例）"),
    "trouble": ("It cannot be looked at: {why}", "无法查看：{why}"),
    "busy-look": (
        "A job is using it; it is looked at again afterwards.",
        "有任务正在使用该磁盘，任务结束后会重新查看。",
    ),
    "layers": ("Layers", "层次"),
    "unknown": ("not recognised", "未识别"),
    "damaged": ("{kind}, damaged: {evidence}", "{kind}，已损坏：{evidence}"),
    "member": ("{title}, another member", "{title}，另一成员"),
    "free": ("free", "空闲"),
    "used-of": ("{used} used of {size}", "已用 {used}，共 {size}"),
    "boot-paths": ("How it boots", "启动方式"),
    "boots": ("boots", "可启动"),
    "boots-not": ("does not boot", "不可启动"),
    "findings": ("Findings", "检查结果"),
    "no-findings": ("Nothing is wrong, as far as the tables and headers tell.", "从分区表和头部看没有问题。"),
    "severity-note": ("note", "提示"),
    "severity-warning": ("warning", "警告"),
    "severity-damage": ("damage", "损坏"),
    "actions": ("What to do", "操作"),
    "show-plan": ("Show the plan", "显示计划"),
    "plan-first": (
        "First comes the plan; nothing is written before you confirm it.",
        "先显示计划；在您确认之前不会写入任何内容。",
    ),
    "capture": ("Capture", "采集"),
    "capture-what": (
        "Write what matters of the whole disk into one image file. The disk is only read.",
        "把整块磁盘上有用的内容写入一个映像文件。磁盘只会被读取。",
    ),
    "to": ("Where to", "目标位置"),
    "to-download": ("Download with this browser", "用此浏览器下载"),
    "to-url": ("To an address (HTTP PUT)", "上传到网址（HTTP PUT）"),
    "to-file": ("A new file in {folder}", "{folder} 中的新文件"),
    "url": ("Address (http:// or https://)", "网址（http:// 或 https://）"),
    "name": ("Name of the new file", "新文件名"),
    "minimize": ("Make the disk in the image as small as it can be", "把映像中的磁盘缩到最小"),
    "restore": ("Restore", "恢复"),
    "restore-what": (
        "Write an image to this disk and grow it. Everything on the disk is lost.",
        "把映像写入此磁盘并扩容。磁盘上的所有内容都将丢失。",
    ),
    "from": ("Where from", "来源"),
    "from-url": ("An address", "网址"),
    "digest": (
        "Root digest, sha256:..., of the one image to accept (optional)",
        "只接受此根摘要 sha256:... 的映像（可选）",
    ),
    "verify": ("Read everything back before the disk becomes bootable", "在磁盘可启动之前回读校验全部内容"),
    "upload": ("Restore from this device", "从此设备恢复"),
    "upload-what": (
        "The image goes straight to the disk. An upload that is cut begins anew; keep this page open.",
        "映像将直接写入磁盘。上传中断后需要重新开始；请保持此页面打开。",
    ),
    "image-file": ("Image (.raw.zst)", "映像（.raw.zst）"),
    "needs-script": (
        "To upload, this page needs JavaScript. An address or a file on another disk works without.",
        "上传需要 JavaScript。使用网址或其他磁盘上的文件则不需要。",
    ),
    "grow": ("Grow", "扩容"),
    "grow-what": (
        "Make the last data partition and everything on it fill the disk.",
        "让最后一个数据分区及其上的所有内容占满磁盘。",
    ),
    "gpt": ("First turn an MBR into a GPT", "先把 MBR 转换为 GPT"),
    "shrink": ("Shrink", "缩小"),
    "shrink-what": (
        "Make a smaller disk of it, in a new file in {folder}. The disk itself is only read.",
        "在 {folder} 中生成一个更小的磁盘文件。磁盘本身只会被读取。",
    ),
    "fold": ("Fold", "合并"),
    "fold-what": (
        "Put a boot disk into free space of this disk, so that it boots by itself.",
        "把启动盘放入此磁盘的空闲空间，使其能够自行启动。",
    ),
    "boot-disk": ("Boot disk", "启动盘"),
    "repair": ("Repair", "修复"),
    "repair-what": (
        "Find what keeps the disk from booting, and heal it.",
        "找出磁盘不能启动的原因并修复。",
    ),
    "kit": ("With", "使用"),
    "kit-none": ("only what the disk itself has", "仅磁盘自身的内容"),
    "boot": ("Test the boot", "启动测试"),
    "boot-what": (
        "Boot it in a virtual machine and wait for a text on its serial console. The disk is only read.",
        "在虚拟机中启动，并等待串行控制台上出现指定文字。不会向磁盘写入任何内容。",
    ),
    "firmware": ("Firmware", "固件"),
    "expect": ("Text to wait for", "等待的文字"),
    "media": ("Images on this disk", "此磁盘上的映像"),
    "media-what": (
        "A partition is mounted, to be read only, until you close it. Images in its first two levels of "
        "folders are then offered to restore from.",
        "分区以只读方式挂载，直到您关闭它。其前两级文件夹中的映像可用于恢复。",
    ),
    "media-open": ("Open partition {number} ({kind})", "打开分区 {number}（{kind}）"),
    "media-close": ("Close {name}", "关闭 {name}"),
    "images": ("Images", "映像"),
    "no-images": ("No images here.", "这里没有映像。"),
    "plan": ("The plan", "计划"),
    "planning": ("The plan is being made ...", "正在制定计划……"),
    "plan-failed": ("This cannot be done; nothing was written.", "无法执行；没有写入任何内容。"),
    "plan-none": ("There is nothing to plan: the disk is only read.", "无需计划：磁盘只会被读取。"),
    "plan-gone": (
        "This plan was used already or is too old. Begin again from the disk.",
        "此计划已使用或已过期。请从磁盘页面重新开始。",
    ),
    "command": ("Command", "命令"),
    "confirm": ("Do it", "执行"),
    "confirm-write": ("This writes to {name} ({size}).", "这将写入 {name}（{size}）。"),
    "confirm-word": ("Type {word} to confirm", "输入 {word} 以确认"),
    "confirm-wrong": ("That is not {word}. Nothing was written.", "这不是 {word}。没有写入任何内容。"),
    "back": ("Back to the disk", "返回磁盘"),
    "job": ("Job", "任务"),
    "progress": ("Progress", "进度"),
    "log": ("Log", "日志"),
    "answer": ("Answer", "结果"),
    "cancel": ("Cancel", "取消"),
    "again": ("Run the same command again", "重新运行同一命令"),
    "again-what": (
        "It goes on where it stopped, where it can; the log says what state the disk is in.",
        "如果可以，将从中断处继续；日志说明磁盘当前的状态。",
    ),
    "download": ("Start the download", "开始下载"),
    "stay": (
        "You may leave this page: the job goes on.",
        "您可以离开此页面：任务会继续运行。",
    ),
    "state-waiting": ("waiting", "等待中"),
    "state-running": ("running", "运行中"),
    "state-done": ("done", "完成"),
    "state-failed": ("failed", "失败"),
    "state-cancelled": ("cancelled", "已取消"),
    "rate": ("{rate}/s", "{rate}/秒"),
    "left": ("{left} left", "剩余 {left}"),
    "of": ("{done} of {total}", "{done} / {total}"),
    "machine": ("This machine", "本机"),
    "network": ("Addresses", "地址"),
    "unattended": ("Unattended job", "无人值守任务"),
    "power": ("Power", "电源"),
    "poweroff": ("Power off", "关机"),
    "reboot": ("Reboot", "重启"),
    "power-ask": ("{what}: are you sure?", "{what}：确定吗？"),
    "power-yes": ("Yes", "确定"),
    "power-running": ("A job is running; cancel it first.", "有任务正在运行；请先取消。"),
    "power-now": ("The machine goes down now.", "本机正在关闭。"),
    "trouble-title": ("That did not work", "操作未成功"),
    "not-found": ("There is nothing here.", "这里没有内容。"),
    "one-at-a-time": ("Wait for the other job: {title}", "请等待另一个任务：{title}"),
}


def say(lang: str, key: str, **values: object) -> str:
    """Return a text in a language of LANGUAGES; `values` fill its places."""
    return TEXTS[key][LANGUAGES.index(lang)].format(**values)


def best(accept: str) -> str:
    """Return the language that a browser likes most, from Accept-Language (RFC 9110, 12.5.4)."""
    wanted: list[tuple[float, str]] = []
    for item in accept[:500].split(","):
        name, _, quality = item.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        wanted.append((weight, name.partition("-")[0].strip().lower()))
    known = [(weight, name) for weight, name in wanted if name in LANGUAGES and weight > 0]
    return max(known, key=lambda item: item[0])[1] if known else LANGUAGES[0]
