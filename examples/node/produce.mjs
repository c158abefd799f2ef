// Sends lead changes in JSON with kafkajs: `node produce.mjs`.
//
// Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC (crm.lead-changes by default). Prints one line for each record:
// `lead id<tab>what was sent`.

import { randomUUID } from 'node:crypto'
import { Kafka, Partitioners, logLevel } from 'kafkajs'

const topic = process.env.TOPIC ?? 'crm.lead-changes'
const headers = { 'content-type': 'application/json' }

// A change that was committed to the CRM just now. One that is sent again after a failure keeps its event_id.
function change(leadId, changeType, version, lead) {
  return {
    event_id: randomUUID(),
    lead_id: leadId,
    change_type: changeType,
    occurred_at: new Date().toISOString(),
    lead_version: version,
    lead
  }
}

const kafka = new Kafka({ brokers: process.env.KAFKA_BOOTSTRAP_SERVERS.split(','), logLevel: logLevel.NOTHING })
// Idempotent: a retry neither repeats a record nor changes the order.
const producer = kafka.producer({ idempotent: true, createPartitioner: Partitioners.DefaultPartitioner })

async function send(leadId, value, what) {
  // The key is the lead id: all changes of a lead then keep their order.
  await producer.send({ topic, acks: -1, messages: [{ key: leadId, value, headers }] })
  console.log(`${leadId}\t${what}`)
}

const lead = {
  created_at: '2026-01-30T08:15:00Z',
  lead_score: 41.5,
  touchpoint_count: 1,
  status: 'new',
  numbers: { gpa: 3.5 }, // fields of this CRM's own
  categories: { country: 'FR' }
}
const created = change('ada', 'CREATED', 1, lead)
const updated = change('ada', 'UPDATED', 2, { ...lead, status: 'contacted', touchpoint_count: 2 })

await producer.connect()
for (const each of [created, updated]) await send('ada', JSON.stringify(each), each.change_type)
await send('eve', null, 'erased') // a null value erases a lead
await producer.disconnect()
